PRAGMA application_id = 0;
PRAGMA user_version = 3;
BEGIN TRANSACTION;
CREATE TABLE account (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    server TEXT NOT NULL,
    trust TEXT NOT NULL CHECK (trust IN ('system', 'file', 'insecure')),
    domain TEXT NOT NULL,
    server_static BLOB NOT NULL CHECK (length(server_static) = 32),
    device_ca BLOB NOT NULL CHECK (length(device_ca) = 32),
    pattern TEXT NOT NULL,
    handle TEXT NOT NULL,
    user_id TEXT,
    certificate TEXT,
    via TEXT NOT NULL DEFAULT 'binary'
) STRICT;
INSERT INTO "account" VALUES(1,'https://localhost:18555','file','localhost',X'6254B6824784D55AF8CA2923BEAAE0D903A01AE8F66D529CED2F8C7A5B706E51',X'141F1F1C494B0F8953D5BA25216254B84A440729FE2A526BF7973A6775BFCB76','XK','alice','4970c1658ec937d7df52c8ca53dbdd438c1fc613a09c84956a288f7160545dfd','{"serial": 15710526864355635684, "user_id": "4970c1658ec937d7df52c8ca53dbdd438c1fc613a09c84956a288f7160545dfd", "device_id": "dc235684096be9cc869248c8ba081536", "public_key": "9565736527e53f62fec870f23f6982dfb00f3607b9b0845e6f78434d6349e309", "issuer": "141f1f1c494b0f8953d5ba25216254b84a440729fe2a526bf7973a6775bfcb76", "issued_at": 1795889395, "expires_at": 1798481395, "signature": "5907232a1738417051139d5a6cdb32030df3ade4bab11f0c1231753ebc477df2a2fb8c4dea0e2a02ecc29f5e6c1a82c9939f1a68f24bb3f8e0e6944f8c90b907"}','binary');
CREATE TABLE channel_attempt (
    device_id TEXT PRIMARY KEY,
    attempt INTEGER NOT NULL
) STRICT;
CREATE TABLE inbox_cursor (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    epoch TEXT NOT NULL,
    ack INTEGER NOT NULL
) STRICT;
INSERT INTO "inbox_cursor" VALUES(1,'e65812a730fc728589937ae557f551ef',1);
CREATE TABLE ledger_head (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    ledger TEXT NOT NULL UNIQUE,
    document TEXT NOT NULL
) STRICT;
INSERT INTO "ledger_head" VALUES(1,'e8767e14c87d817e40890afd1d9f975ced48e37d4570cefc4bfdf3d550a26ec1','{"ledger": "e8767e14c87d817e40890afd1d9f975ced48e37d4570cefc4bfdf3d550a26ec1", "size": 10, "head": "8376613a7cc8b26e41888b5acdb6ecc774bc2fd855a49f375363672b36c3b59a", "signed_at": 1795889409, "node": "main", "key": "141f1f1c494b0f8953d5ba25216254b84a440729fe2a526bf7973a6775bfcb76", "signature": "6cd75906ddba591ac0452b0980fa8a12fd6ddd06368ae27f9f8fefcac36194b9a6dcc7f9016b4ff81122db187a585c54922f64bd6f159296c880901a1174e700"}');
CREATE TABLE peer (
    device_id TEXT PRIMARY KEY,
    public_key BLOB NOT NULL CHECK (length(public_key) = 32)
) STRICT;
INSERT INTO "peer" VALUES('0fecd35d69f593b1eb703c6fa4c16424',X'3D8D5593ED74DCC4DF1B6ECEDA843C5AC3A2FFFC277D3CD831661D21FC21D4DC');
CREATE TABLE shown (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    sender TEXT NOT NULL,
    message_id BLOB NOT NULL,
    UNIQUE (sender, message_id)
) STRICT;
INSERT INTO "shown" VALUES(1,'0fecd35d69f593b1eb703c6fa4c16424',X'E0E6454535A2D32764BE8C092B869342');
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('ledger_head',4);
INSERT INTO "sqlite_sequence" VALUES('shown',1);
COMMIT;
