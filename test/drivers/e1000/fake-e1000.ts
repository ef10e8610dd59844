/** An 82540EM on a fake PCI function. */
import type { BarInfo, InterruptKind } from 'dmapool/pci';
import { ModelFunction } from '../model-function.ts';
import type { E1000Model } from './model-e1000.ts';

export class FakeE1000 extends ModelFunction<E1000Model> {
  override readonly bars: readonly BarInfo[] = [
    { index: 0, kind: 'memory', size: 0x2_0000, prefetchable: false, is64: false },
  ];

  constructor(model: E1000Model, kind: InterruptKind | null) {
    super(model, kind);
    this.config.setUint32(0, 0x100e_8086, true);
  }
}
