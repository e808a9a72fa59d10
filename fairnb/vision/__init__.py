"""See images: face detection, classifiers, CLIP and DINO."""
