"""Floor 4: editing methods, one short file each, all on the engine of ``steer``."""
