/** The NVMe driver on a disk of the virtual machine, through VFIO. */
import { testsInVm } from '../vm/machine.ts';

testsInVm('NVMe through VFIO', new URL('vfio-nvme-guest.js', import.meta.url), {
  devices: [{ kind: 'nvme', size: 2 ** 24 }],
  hugepages: { '2M': 24 },
});
