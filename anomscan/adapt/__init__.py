"""Fine-tune a backbone on normal images. The only floor that imports torch and timm."""
