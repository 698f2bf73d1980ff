//! The verifier: reads a journal directory and says whether the chain is whole. Uses nothing else of ours.
