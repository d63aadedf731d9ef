-- What a verifier keeps: its challenges, the policies of its operator with all their versions, and the revocation list in force.

CREATE TABLE appraisal_challenges (
    id            TEXT PRIMARY KEY,
    nonce         BLOB NOT NULL,
    -- Who asked for it, and may use it.
    subject       TEXT NOT NULL,
    expires_at_ms INTEGER NOT NULL,
    used          INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX appraisal_challenges_by_end ON appraisal_challenges (expires_at_ms);

-- Versions are only ever added; each names the digest of the one before. Times are seconds since 1970.
CREATE TABLE appraisal_policies (
    name       TEXT NOT NULL,
    version    INTEGER NOT NULL,
    digest     TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    text       TEXT NOT NULL,
    previous   TEXT NOT NULL,
    PRIMARY KEY (name, version)
) STRICT;

-- One row: the list with the highest serial that was seen.
CREATE TABLE appraisal_revocations (
    id     INTEGER PRIMARY KEY CHECK (id = 1),
    serial INTEGER NOT NULL,
    file   TEXT NOT NULL
) STRICT;
