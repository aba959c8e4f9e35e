-- Times are milliseconds since the Unix epoch.
CREATE TABLE enrol_tokens (
    hash       BLOB PRIMARY KEY,          -- SHA-256 of the secret part
    role       TEXT NOT NULL,             -- agent, gateway
    pool       TEXT,                      -- of a session host
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    uses_left  INTEGER NOT NULL CHECK (uses_left >= 0)
) STRICT;

CREATE TABLE machines (
    role        TEXT NOT NULL,
    name        TEXT NOT NULL,
    pool        TEXT,
    key_sha256  BLOB NOT NULL,            -- SHA-256 of the SubjectPublicKeyInfo
    enrolled_at INTEGER NOT NULL,
    revoked_at  INTEGER,
    PRIMARY KEY (role, name)
) STRICT;

CREATE TABLE drains (
    host  TEXT PRIMARY KEY,
    since INTEGER NOT NULL
) STRICT;

CREATE TABLE audit (
    id      INTEGER PRIMARY KEY,
    at      INTEGER NOT NULL,
    action  TEXT NOT NULL,
    subject TEXT NOT NULL,
    detail  TEXT NOT NULL
) STRICT;
