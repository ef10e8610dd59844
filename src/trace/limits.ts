/**
 * Limits of a trace and its expectations. They bound the memory and time for a small file that decompresses to any size
 * or contains any numbers. The recorder stops at these limits. {@link readTrace} applies only those of a line and of
 * the header.
 */
export const TRACE_LIMIT = {
  /** Characters of a line. */
  line: 65_536,
  /** Characters of the whole header. */
  header: 1_048_576,
  /** Characters of the name of a device or pool, and of a snapshot's label. */
  name: 1024,
  /** Digits of a number, leading zeros included. */
  digits: 16,
  /** Lines after the header. */
  events: 2_097_152,
  /** Distinct blocks of all pools. */
  blocks: 524_288,
  /** Sum of the sizes of all allocations, in bytes: a replay writes and reads each one. */
  bytes: 17_179_869_184,
  /** Pools created. */
  pools: 4096,
  /** Names of devices. */
  devices: 256,
  /** Snapshots. */
  snapshots: 1024,
  /**
   * Rows that a replay compares at most: for each snapshot one per live pool, and for each create or destroy within it one
   * per live pool of the device.
   */
  rows: 262_144,
  /** Files in the expectations. */
  files: 4096,
} as const;
