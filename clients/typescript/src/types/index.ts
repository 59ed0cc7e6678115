/** The types of arguments, results, errors and items, as generated code writes them. */
export {
  any,
  bool,
  bytes,
  char,
  f32,
  f64,
  i8,
  i16,
  i32,
  i64,
  i128,
  string,
  u8,
  u16,
  u32,
  u64,
  u128,
  unit,
} from "./scalars.js";
export { lazy, list, map, option, record, tuple } from "./containers.js";
export { optional, struct } from "./structs.js";
export { adjacent, enumeration, tagged, untagged, variants } from "./enums.js";
