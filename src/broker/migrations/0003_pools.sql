-- Whose the hosts of personal pools are. A user has one of each pool.
CREATE TABLE assignments (
    pool  TEXT NOT NULL,
    user  TEXT NOT NULL,
    host  TEXT NOT NULL,
    since INTEGER NOT NULL,
    PRIMARY KEY (pool, user),
    UNIQUE (pool, host)
) STRICT;

-- Hosts with one of these labels take no new users.
CREATE TABLE drained_labels (
    label TEXT PRIMARY KEY,
    since INTEGER NOT NULL
) STRICT;
