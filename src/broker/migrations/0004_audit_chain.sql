-- The audit trail becomes a hash chain; see src/core/audit.rs. What was recorded
-- before stays as it is: nothing protected it until now.
ALTER TABLE audit RENAME TO audit_before_chain;

CREATE TABLE audit (
    number  INTEGER PRIMARY KEY,          -- 1, 2, 3 … without a gap
    at      INTEGER NOT NULL,
    action  TEXT NOT NULL,
    subject TEXT NOT NULL,
    detail  TEXT NOT NULL,                -- a JSON object
    hash    BLOB NOT NULL CHECK (length(hash) = 32)
) STRICT;

-- The last record, so that one that is cut off is missed.
CREATE TABLE audit_head (
    the_only INTEGER PRIMARY KEY CHECK (the_only = 1),
    number   INTEGER NOT NULL,
    hash     BLOB NOT NULL
) STRICT;
INSERT INTO audit_head VALUES (1, 0, zeroblob(32));

-- Against mistakes, ours and an operator's. Whoever means harm is what the
-- hashes are for.
CREATE TRIGGER audit_is_not_changed BEFORE UPDATE ON audit
BEGIN SELECT RAISE(ABORT, 'audit records are not changed'); END;
CREATE TRIGGER audit_is_not_deleted BEFORE DELETE ON audit
BEGIN SELECT RAISE(ABORT, 'audit records are not deleted'); END;
-- Also what INSERT OR REPLACE would do.
CREATE TRIGGER audit_only_grows BEFORE INSERT ON audit
WHEN NEW.number <= (SELECT number FROM audit_head)
BEGIN SELECT RAISE(ABORT, 'audit records are not replaced'); END;
CREATE TRIGGER audit_head_only_grows BEFORE UPDATE ON audit_head
WHEN NEW.number <= OLD.number
BEGIN SELECT RAISE(ABORT, 'the audit trail is not shortened'); END;
CREATE TRIGGER audit_head_stays BEFORE DELETE ON audit_head
BEGIN SELECT RAISE(ABORT, 'the audit trail is not shortened'); END;

-- Sessions that an administrator ended and that a machine could bring back.
CREATE TABLE revoked_sessions (
    session BLOB PRIMARY KEY,
    until   INTEGER NOT NULL
) STRICT;
