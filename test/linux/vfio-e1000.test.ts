/**
 * The network card's driver through VFIO, in the virtual machine: two cards on one hub, of which the kernel drives one.
 */
import { testsInVm } from '../vm/machine.ts';

testsInVm('e1000 through VFIO', new URL('vfio-e1000-guest.js', import.meta.url), {
  devices: [{ kind: 'e1000' }, { kind: 'e1000' }],
  hugepages: { '2M': 8 },
});
