/**
 * dmapool/linux: memory of the Linux system. Needs the package koffi.
 *
 * @packageDocumentation
 */
export { DmaDependencyError, HugepageError, SystemCallError } from './error.ts';
export { HugetlbMemory, type HugetlbOptions, type PhysicalRun } from './hugetlb.ts';
export { openSharedRegion } from './mapped-memory.ts';
