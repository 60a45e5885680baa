-- What names a message in the reports to its sender, beside reporter; set where that is set.
ALTER TABLE relay_queue ADD COLUMN reference bytea;

-- How many rows of the inbox have a reporter: a confirmation looks for them only where there are any.
ALTER TABLE inbox_offset ADD COLUMN reports bigint NOT NULL DEFAULT 0 CHECK (reports >= 0);
UPDATE inbox_offset AS o SET reports = asked.n
FROM (SELECT position >> 32 AS inbox, count(*) AS n FROM relay_queue WHERE reporter IS NOT NULL GROUP BY 1) AS asked
WHERE asked.inbox = o.inbox;

-- An open room is a group without an owner; its id begins with a character that no client can send.
ALTER TABLE chat_group ALTER COLUMN owner_device DROP NOT NULL;
