/** The memory of an active device that is removed, in the virtual machine. */
import { testsInVm } from '../vm/machine.ts';

testsInVm('a VFIO device at work that is taken away', new URL('vfio-live-guest.js', import.meta.url), {
  devices: [{ kind: 'nvme', size: 2 ** 24, readRate: 2 ** 20 }],
  hugepages: { '2M': 24 },
});
