"""The kernel: from files on disk to an immutable snapshot of what is deployed.

    watch ── tick ──> scan ── revisions ──> plan ── plan ──> load ── deployment | failure ──> snapshot

``reconcile`` runs that line from left to right, once per tick, in its own thread, and publishes each new snapshot.
``retire`` tears down what a snapshot no longer holds, after its last request. Start with ``reconcile.py``, then read
the steps in order; ``state.py`` has the values between them. Nothing here knows HTTP.
"""
