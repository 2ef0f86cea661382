"""Curvature of a loss at a point: Hessian and Gauss-Newton products, spectra, traces, sharpness, margins and norms."""
