"""From a folder of images to rows."""
