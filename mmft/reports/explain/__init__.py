"""What `mmft explain` is made of: words, and the page that a row is drawn on."""
