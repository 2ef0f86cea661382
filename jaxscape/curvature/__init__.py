"""How the loss bends at a point: Hessian and Gauss-Newton products, spectra, traces, sharpness, margins and norms."""
