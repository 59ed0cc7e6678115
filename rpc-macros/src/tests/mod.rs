mod expansion;
mod refusals;
