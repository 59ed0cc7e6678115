/** A plain integer of 128 bits: an integer in JSON, decimal text in MessagePack. */
export class Wide {
  constructor(readonly value: bigint) {}
}
