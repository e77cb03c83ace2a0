"""Images: names, generations, creation and change."""
