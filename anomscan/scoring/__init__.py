"""From features to scores, by what the normals are like."""
