"""The model lifecycle: what is wanted, from which data, how it is learned, judged, served and watched."""
