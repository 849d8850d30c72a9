//! Who is asking: keys that rotate, tokens and what they may be good for, and those who guess.

mod guessing;
mod keys;
mod tokens;
