-- What names a message in the reports to its sender, beside reporter; set where that is set.
ALTER TABLE relay_queue ADD COLUMN reference BLOB;

-- How many rows of the inbox have a reporter: a confirmation looks for them only where there are any.
ALTER TABLE inbox_offset ADD COLUMN reports INTEGER NOT NULL DEFAULT 0 CHECK (reports >= 0);
UPDATE inbox_offset SET reports = (
    SELECT count(*) FROM relay_queue
    WHERE position BETWEEN inbox << 32 AND (inbox << 32) + 4294967295 AND reporter IS NOT NULL
) WHERE rows > 0;
