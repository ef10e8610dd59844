/** Views of closed sources, in the virtual machine: 10,000 orders in all. */
import { testsInVm } from '../vm/machine.ts';

testsInVm('views of closed sources', new URL('stale-views-guest.js', import.meta.url), {
  devices: [{ kind: 'edu' }],
  hugepages: { '2M': 24 },
  timeout: 600_000,
});
