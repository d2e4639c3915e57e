"""Leases on resources, and the fences that refuse who lost one."""
