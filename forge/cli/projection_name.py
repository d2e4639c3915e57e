"""How people name projections: documents by their names, others in full."""


def projection_name(name: str) -> str:
    """Return the projection that is called `name`: `notes` is `doc/notes`; `control` and `vector/queue` stay."""
    return name if "/" in name or name == "control" else f"doc/{name}"
