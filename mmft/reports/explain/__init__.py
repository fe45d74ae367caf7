"""The parts of `mmft explain`: attributions, words, and the page that shows a row."""
