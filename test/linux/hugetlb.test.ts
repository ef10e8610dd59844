/** Memory of hugepages, in the virtual machine. */
import { testsInVm } from '../vm/machine.ts';

testsInVm('hugetlb memory', new URL('hugetlb-guest.js', import.meta.url), {
  hugepages: { '2M': 48 },
  numaNodes: 2,
});

testsInVm('hugetlb memory of two sizes of hugepages', new URL('hugetlb-gigantic-guest.js', import.meta.url), {
  hugepages: { '1G': 1, '2M': 8 },
  // With less memory the kernel finds no aligned GiB free.
  memory: 4 * 2 ** 30,
});
