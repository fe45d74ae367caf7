"""What `mmft check` looks for in rows: bad ones, the same or nearly the same ones, how labels are spread."""
