"""Reports as a reader has them: opened from the disk in Chromium, clicked and typed into."""
