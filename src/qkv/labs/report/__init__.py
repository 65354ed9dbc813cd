"""The report: a folder of static pages that needs nothing but itself, drawn from results alone."""
