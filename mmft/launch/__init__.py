"""Several processes for one run: who starts them (`supervisor`), what each does (`rank`), who leads (`leading`)."""
