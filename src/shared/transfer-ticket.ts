/**
 * A block on its way between workers, as one number that goes through any channel:
 *
 *     bits   52 ... 29   28 ... 23   22 ... 0
 *            nonce       giver       index
 *            ------- way -------
 *
 * The way also stands in the block's word while it is under way, so a ticket is good for one transfer only. No `%`
 * here: on numbers this large it is a call into the C library, and the divisors are powers of two anyway.
 */

/** Bits of an index in a ticket, and of a worker's number in a way. */
const INDEX_RANGE = 2 ** 23;
const WORKER_RANGE = 64;
/** Nonces of transfers; a way is a small integer. */
const NONCES = 2 ** 24;

/** The way of worker `giver`'s transfer number `nonce`. */
export function wayOf(giver: number, nonce: number): number {
  return nonce * WORKER_RANGE + giver;
}

export function nextNonce(nonce: number): number {
  return (nonce + 1) & (NONCES - 1);
}

export function encodeTicket(way: number, index: number): number {
  return way * INDEX_RANGE + index;
}

/** The way that a ticket names; any whole number below 2^53 gives some way. */
export function wayOfTicket(ticket: number): number {
  // As a small integer, like the index: the engine would learn from a float that the hot path's indices may be floats.
  return Math.floor(ticket / INDEX_RANGE) | 0;
}

export function indexOfTicket(ticket: number): number {
  return (ticket - Math.floor(ticket / INDEX_RANGE) * INDEX_RANGE) | 0;
}

export function giverOf(way: number): number {
  return way & (WORKER_RANGE - 1);
}
