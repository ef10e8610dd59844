/**
 * dmapool/linux: mapped memory, hugepages and VFIO on Linux. Needs the package koffi.
 *
 * @module dmapool/linux
 * @packageDocumentation
 */
export { bindToVfio, type Rebinding, unbindFromVfio } from './bind.ts';
export {
  BindError,
  type BindErrorCode,
  DmaDependencyError,
  HugepageError,
  SystemCallError,
  VfioError,
  type VfioErrorCode,
} from './error.ts';
export { HugetlbMemory, type HugetlbOptions, type PhysicalRun } from './hugetlb.ts';
export { openSharedRegion } from './mapped-memory.ts';
export { listPciDevices, type PciDevice, type SystemFolders, usesOf } from './pci-devices.ts';
export { VfioDevice, type VfioOpenOptions } from './vfio.ts';
export { VfioMemory, type VfioMemoryOptions } from './vfio-memory.ts';
