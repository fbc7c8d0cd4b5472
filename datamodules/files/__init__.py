"""Reading what others wrote, and writing so that a kill leaves nothing half done."""
