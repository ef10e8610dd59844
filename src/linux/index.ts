/**
 * dmapool/linux: memory of the Linux system. Needs the package koffi.
 *
 * @packageDocumentation
 */
export { DmaDependencyError, SystemCallError } from './error.ts';
export { openSharedRegion } from './mapped-memory.ts';
