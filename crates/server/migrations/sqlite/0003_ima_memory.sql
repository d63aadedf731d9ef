-- How far a node's list of files was appraised in its present boot, as JSON; NULL where it was not.
ALTER TABLE nodes ADD COLUMN ima_memory TEXT;
