/** Run without having been compiled, by runtimes that can. */
import { Device, DmaPool } from '../../../src/index.ts';

const pool = DmaPool.create('ehci_qtd', new Device({ name: 'ehci' }), { size: 96, align: 32, boundary: 4096 });
pool.free(pool.alloc());
console.log(`${String(pool.statistics().blocks)} blocks a page`);
