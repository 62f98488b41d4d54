mod checkpoint;
mod hostile;
mod real;
mod roundtrip;
