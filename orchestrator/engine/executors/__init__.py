"""Where nodes run: in this process, or in stage-host actors on Ray."""
