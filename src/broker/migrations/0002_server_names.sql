-- DNS names that gateways of a token may have in their certificates (JSON).
ALTER TABLE enrol_tokens ADD COLUMN server_names TEXT NOT NULL DEFAULT '[]';
