/**
 * What a trace, and the expectations beside it, may hold at most. They keep a file of a few megabytes that unpacks to
 * any size, or names any numbers, from taking all memory or hours; a recording that is larger than these is cut by the
 * recorder. {@link readTrace} hands out events without end: only the limits of a line and of the header hold there.
 */
export const TRACE_LIMIT = {
  /** Characters of a line. */
  line: 65_536,
  /** Characters of all lines of the header together. */
  header: 1_048_576,
  /** Characters of the name of a device or pool, and of a snapshot's label. */
  name: 1024,
  /** Digits of a number, leading zeros included. */
  digits: 16,
  /** Lines after the header. */
  events: 2_097_152,
  /** Different blocks of all pools together. */
  blocks: 524_288,
  /** Bytes of all blocks handed out, each time anew: a replay writes and reads them all. */
  bytes: 17_179_869_184,
  /** Pools created. */
  pools: 4096,
  /** Names of devices. */
  devices: 256,
  /** Snapshots. */
  snapshots: 1024,
  /** Living pools at the beginnings of all snapshots, and of the device at each create and destroy within one, summed. */
  rows: 262_144,
  /** Files in the expectations. */
  files: 4096,
} as const;
