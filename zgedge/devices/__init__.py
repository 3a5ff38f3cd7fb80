"""From the desk to a device: profiles of boards, bundles, and what carries and installs them."""
