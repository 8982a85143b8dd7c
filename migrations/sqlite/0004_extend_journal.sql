-- What a step cost, and the hashes under which its large documents lie.
ALTER TABLE step ADD COLUMN cost TEXT;
ALTER TABLE step ADD COLUMN input_blob TEXT;
ALTER TABLE step ADD COLUMN output_blob TEXT;
CREATE INDEX step_input_blob ON step (input_blob) WHERE input_blob IS NOT NULL;
CREATE INDEX step_output_blob ON step (output_blob) WHERE output_blob IS NOT NULL;

-- Large documents, each once, by the BLAKE3 hash of their text.
CREATE TABLE blob (
    hash TEXT PRIMARY KEY,
    body TEXT NOT NULL
);
