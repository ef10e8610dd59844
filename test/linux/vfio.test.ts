/** Devices through VFIO, in the virtual machine. */
import { testsInVm } from '../vm/machine.ts';

testsInVm('VFIO', new URL('vfio-guest.js', import.meta.url), {
  devices: [{ kind: 'edu' }, { kind: 'edu' }],
  hugepages: { '2M': 24 },
});
