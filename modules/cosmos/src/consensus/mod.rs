//! What FinalizeBlock does not carry: chain id, initial height, consensus parameters, application version.
