/** The state after a driver's process was killed, in the virtual machine. */
import { testsInVm } from '../vm/machine.ts';

testsInVm('a driver that is killed', new URL('vfio-kill-guest.js', import.meta.url), {
  devices: [{ kind: 'nvme', size: 2 ** 24 }],
  hugepages: { '2M': 24 },
  timeout: 600_000,
});
