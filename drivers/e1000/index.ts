/**
 * dmapool/drivers/e1000: driver for Intel's 82540EM network card.
 *
 * @module dmapool/drivers/e1000
 * @packageDocumentation
 */
export { DriverError } from '../common/error.ts';
export { E1000, type E1000Link } from './e1000.ts';
export { E1000Error, type E1000ErrorCode } from './errors.ts';
export type { E1000Options, E1000WaitOptions } from './options.ts';
export type { Packet, PacketPool } from './packets.ts';
export type { E1000Counters, E1000Statistics } from './statistics.ts';
