-- What went over an instance's link, as JSON; NULL where it has none or nothing was counted yet.
ALTER TABLE instances ADD COLUMN network TEXT;
