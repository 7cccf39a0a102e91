//! Layer-wise learning-rate decay: which layer a parameter belongs to, by its name.

/// A rule from names to layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LayerDecay {
    /// MAE (`util/lr_decay.py`): embeddings 0, block i is i + 1, the rest last.
    Mae {
        /// Number of blocks.
        depth: usize,
    },
    /// BEiT, VideoMAE (`optim_factory.py`): as MAE, and the mask token is 0 too.
    Beit {
        /// Number of blocks.
        depth: usize,
    },
    /// SimMIM's Swin (`optimizer.py`): blocks counted through the stages; a stage's downsampling
    /// belongs to its last block.
    Swin {
        /// Blocks a stage.
        depths: Vec<usize>,
    },
    /// ConvNeXt V2 (`get_num_layer_for_convnext`): the third stage in groups of `group` blocks,
    /// the fourth stage is layer `groups`.
    ConvNextGroup {
        /// Blocks a layer in the third stage.
        group: usize,
        /// Layers between stem and head.
        groups: usize,
    },
    /// ConvNeXt V2 (`get_num_layer_for_convnext_single`): every block is a layer.
    ConvNextSingle {
        /// Blocks a stage.
        depths: Vec<usize>,
    },
}

impl LayerDecay {
    /// Number of layers, embeddings and head included.
    pub fn layers(&self) -> usize {
        match self {
            Self::Mae { depth } | Self::Beit { depth } => depth + 2,
            Self::Swin { depths } | Self::ConvNextSingle { depths } => {
                depths.iter().sum::<usize>() + 2
            }
            Self::ConvNextGroup { groups, .. } => groups + 2,
        }
    }

    /// The layer of the parameter `name`, 0 for the input side.
    pub fn layer(&self, name: &str) -> usize {
        let known = match self {
            Self::Mae { .. } => vit(name, false),
            Self::Beit { .. } => vit(name, true),
            Self::Swin { depths } => swin(name, depths),
            Self::ConvNextGroup { group, groups } => convnext_group(name, *group, *groups),
            Self::ConvNextSingle { depths } => convnext_single(name, depths),
        };
        let last = self.layers() - 1;
        known.unwrap_or(last).min(last)
    }

    /// The factor of every layer: `decay` to the power of its distance from the last.
    pub fn scales(&self, decay: f64) -> Vec<f64> {
        let last = self.layers() - 1;
        (0..=last).map(|layer| decay.powi((last - layer) as i32)).collect()
    }
}

fn vit(name: &str, mask_token: bool) -> Option<usize> {
    let embedding = name == "cls_token"
        || name.starts_with("pos_embed")
        || name.starts_with("patch_embed")
        || (mask_token && name == "mask_token");
    if embedding { Some(0) } else { Some(number(name, "blocks.")? + 1) }
}

fn swin(name: &str, depths: &[usize]) -> Option<usize> {
    if name == "mask_token" || name.starts_with("patch_embed") {
        return Some(0);
    }
    let stage = number(name, "layers.")?;
    let rest = name.splitn(3, '.').nth(2)?;
    if rest.starts_with("downsample") {
        return Some(depths.iter().take(stage + 1).sum());
    }
    Some(depths.iter().take(stage).sum::<usize>() + number(rest, "blocks.")? + 1)
}

fn convnext_group(name: &str, group: usize, groups: usize) -> Option<usize> {
    if let Some(stage) = number(name, "downsample_layers.") {
        return Some(match stage {
            0 => 0,
            1 | 2 => stage + 1,
            _ => groups,
        });
    }
    match number(name, "stages.")? {
        stage @ (0 | 1) => Some(stage + 1),
        2 => Some(3 + number(name, "stages.2.")? / group.max(1)),
        _ => Some(groups),
    }
}

fn convnext_single(name: &str, depths: &[usize]) -> Option<usize> {
    let before = |stage: usize| depths.iter().take(stage).sum::<usize>();
    if let Some(stage) = number(name, "downsample_layers.") {
        return Some(before(stage) + 1);
    }
    let stage = number(name, "stages.")?;
    Some(before(stage) + number(name, &format!("stages.{stage}."))? + 1)
}

/// The number that follows `prefix`.
fn number(name: &str, prefix: &str) -> Option<usize> {
    name.strip_prefix(prefix)?.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vit_names_fall_into_layers() {
        let (mae, beit) = (LayerDecay::Mae { depth: 12 }, LayerDecay::Beit { depth: 12 });
        for (name, layer) in [
            ("cls_token", 0),
            ("pos_embed_spatial", 0),
            ("patch_embed.proj.bias", 0),
            ("blocks.0.norm1.weight", 1),
            ("blocks.11.attn.q_bias", 12),
            ("fc_norm.weight", 13),
            ("head.bias", 13),
        ] {
            assert_eq!((mae.layer(name), beit.layer(name)), (layer, layer), "{name}");
        }
        assert_eq!((mae.layer("mask_token"), beit.layer("mask_token")), (13, 0));
        assert_eq!(mae.scales(0.5)[12..], [0.5, 1.0]);
    }

    #[test]
    fn stages_are_counted_through() {
        let swin = LayerDecay::Swin { depths: vec![2, 2, 18, 2] };
        assert_eq!(swin.layer("layers.2.blocks.5.mlp.fc2.weight"), 10);
        assert_eq!(swin.layer("layers.2.downsample.norm.bias"), 22);
        assert_eq!((swin.layer("norm.weight"), swin.layers()), (25, 26));
        let group = LayerDecay::ConvNextGroup { group: 3, groups: 12 };
        assert_eq!(
            (group.layer("stages.2.26.pwconv2.bias"), group.layer("downsample_layers.2.0.bias")),
            (11, 3)
        );
        let single = LayerDecay::ConvNextSingle { depths: vec![3, 3, 9, 3] };
        assert_eq!(
            (single.layer("stages.3.1.dwconv.bias"), single.layer("downsample_layers.3.1.weight")),
            (17, 16)
        );
    }
}
